"""The report on a dataset for the eye: a folder of static HTML that opens from the disk, with no server and no network.

Here belongs what turns tables into that folder, and the page itself (`page.html`, `page.css`, `page.js`). What does not: what decides
anything (`curation`), pictures for Dagster's UI (`views`), and where the folder is shown (`assets`).
"""
