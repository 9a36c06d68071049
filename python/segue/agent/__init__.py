"""The agent process: its session with the controller, and the daemon around it."""
