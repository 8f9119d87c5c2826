"""Tables, figures and text from the directories of finished runs."""
