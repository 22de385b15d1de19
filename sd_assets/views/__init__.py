"""What a person looks at to judge a table: its pictures, its distributions, its failures, as Markdown.

Here belongs what turns rows into something for the eye, within a hard limit of bytes and without secrets. What does not:
numbers that decide anything (`quality`), and where the views are shown (`resources`).
"""
