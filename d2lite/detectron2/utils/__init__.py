"""What every part of the API leans on: events, processes, logs, files."""
