"""What turns words and pictures into prompts: the published models' text and image encoders, and their way there."""
