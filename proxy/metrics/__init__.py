"""What a web process counts while it serves, and where all of them leave their counts."""
