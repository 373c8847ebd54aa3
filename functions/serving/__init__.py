"""What both functions need at their boundary: routes, problems, the token, logs, settings, Postgres."""
