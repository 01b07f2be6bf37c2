"""The gateway: where people come in. It finds the generator that a session lives on, and stays when one dies."""
