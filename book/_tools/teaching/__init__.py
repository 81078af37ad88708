"""The book as a course: editions of the chapters, sheets, questions and times, from one source."""
