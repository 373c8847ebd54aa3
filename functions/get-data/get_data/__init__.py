"""get-data: the users table over HTTP, by filters, in pages or whole."""
