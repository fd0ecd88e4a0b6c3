"""HTTP: the dialects in words of their own, and no decisions. `app.make_app` is the door."""
