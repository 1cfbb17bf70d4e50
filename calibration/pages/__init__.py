"""Files of numbers as pages for people: `report.py` writes the page of a probe, `advice.py` that of truncations."""
