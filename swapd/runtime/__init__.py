"""The asyncio shell round the core: feeds it events, performs its commands, serves the API."""
