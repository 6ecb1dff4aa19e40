"""A network and labelled pictures come in; how well it reads them goes out, as files and a page."""
