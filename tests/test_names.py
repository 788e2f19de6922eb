"""Local names say what they hold."""

from __future__ import annotations

from tools.names import empty_names

SOURCE = '''
from hypothesis import given

def there(told: int, *, said=1) -> None:
    """made"""
    found, *kept = read(about=told)
    self.made = found
    for (wanted, key) in kept: pass
    with open(here) as given_file, open(key) as here: pass
    return [about for about in kept if (made := about)]
'''


def test_variables_and_arguments_are_found_and_other_names_are_not() -> None:
    names = {name for _, name in empty_names(SOURCE)}
    assert names == {"told", "said", "found", "wanted", "here", "about", "made"}
    assert min(line for line, _ in empty_names(SOURCE)) == 4
