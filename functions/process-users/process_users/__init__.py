"""process-users: keeps the table of users and the two output files in step with the source bucket."""
