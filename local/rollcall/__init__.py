"""What runs Rollcall on one machine: set-up, scheduler, sample data, and the runner that needs no Docker."""
