"""The pages of the site that are made from the code when it is built, and the map of all pages."""
