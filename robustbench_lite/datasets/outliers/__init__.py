"""Images that belong to no class: named sources, folders, and synthetic ones."""
