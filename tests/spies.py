"""Functions that record how they are called, in place of those that do the work of a command."""

import inspect


class Spies:
    """Functions that record their calls in place of the real ones: `calls[name]` has the arguments of each call."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.calls = monkeypatch, {}

    def put(self, place, name, result=None, label=None):
        """Replace a function; `result` is what it returns, or a function of its arguments."""
        signature, seen = inspect.signature(getattr(place, name)), self.calls.setdefault(label or name, [])

        def spy(*given, **named):
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            seen.append(bound.arguments)
            return result(bound.arguments) if inspect.isfunction(result) else result

        self.monkeypatch.setattr(place, name, spy)

    def values(self, path):
        """Return what a path such as "distill.settings.tau" is in each call of its function."""
        name, *parts = path.split(".")
        found = list(self.calls[name])
        for part in parts:
            found = [one[part] if isinstance(one, dict) else getattr(one, part) for one in found]
        return found
