"""What is published: model cards, tables, and the upload to the Hub."""
