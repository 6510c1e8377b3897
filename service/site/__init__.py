"""What people see in a browser: the page, /docs, and the files of both."""
