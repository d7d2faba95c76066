"""HTML pages that need nothing but a browser, and their parts."""
