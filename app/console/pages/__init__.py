"""One module a page: ask the API, put it into the page's template."""
