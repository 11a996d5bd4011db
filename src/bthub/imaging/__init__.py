"""Pictures: from any file, URL or array to upright RGB pixels."""
