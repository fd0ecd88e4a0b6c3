"""How each format writes calls whose arguments are JSON: for grammars, and to show a model what is expected of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spelling:
    """`begin`, calls with `between` between them, `end`; a call is its arguments, with `before` and `after` around.

    `before` holds {name}, and {number} where calls are counted; {id}, in `before` or `after`, is where the model may
    give the call an id, between the two texts of `around_id`.
    """

    before: str
    after: str = ""
    between: str = "\n"
    begin: str = ""
    end: str = ""
    around_id: tuple[str, str] = ("", "")

    def call(self, name: str, arguments: str) -> str:
        """One call, alone."""
        before = self.before.replace("{id}", "").replace("{name}", name).replace("{number}", "0")
        return f"{self.begin}{before}{arguments}{self.after.replace('{id}', '')}{self.end}"


def objects(arguments: str = "arguments", name: str = "name") -> str:
    """The beginning of a JSON object that is a call."""
    return f'{{"{name}": "{{name}}", "{arguments}": '
