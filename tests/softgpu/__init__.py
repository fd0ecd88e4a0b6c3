"""Graphics cards made of software, for tests; README.md beside this file says what they prove."""
