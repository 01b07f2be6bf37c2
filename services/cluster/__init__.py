"""All parts of the service on a Ray cluster: started, watched, started again, made more or fewer."""
