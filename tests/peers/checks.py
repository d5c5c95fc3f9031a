"""Lines of `ok` and `FAIL`, one per thing that was checked; run.sh counts them."""


class Checks:
    """Prints a line per check under a common label and remembers whether any failed."""

    def __init__(self, label):
        self.label = label
        self.failed = 0

    def check(self, passed, what):
        """what: a phrase with the numbers in it, true or false."""
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {self.label}: {what}", flush=True)

    def note(self, what):
        """Something seen that is neither right nor wrong."""
        print(f"     {self.label}: {what}", flush=True)
