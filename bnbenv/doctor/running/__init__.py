"""Running a user's command: waiting for memory before it, and after a failure the cause, another attempt, a way out."""
