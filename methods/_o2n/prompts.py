"""Prompts of One-to-Normal: its Figure 5, the caption it customizes on and the prior's caption."""

from __future__ import annotations

#: state level: [c] := "[o] without ...", [o] := "normal <object>"
STATES = ("flaw", "defect", "damage")
#: physical level, in the figure's order, with the article "a" of its "a/the"
TEMPLATES = (
    "a photo of a small {c}.",
    "a photo of a large {c}.",
    "a bright photo of a {c}.",
    "a dark photo of a {c}.",
    "a blurry photo of a {c}.",
    "a bad photo of a {c}.",
    "a good photo of a {c}.",
    "a cropped photo of a {c}.",
    "a close-up photo of a {c}.",
    "a low resolution photo of a {c}.",
)
#: sizes of the prompt sets: no text; the paper's 1, 3 (its tables), 5 and 10; all 30 sentences
COUNTS = (0, 1, 3, 5, 10, 30)


def instance_prompt(object_name: str) -> str:
    """Caption of the images a model is customized on (section 3.2)."""
    return f"a photo of normal {object_name}"


def prior_prompt(object_name: str) -> str:
    """Caption of the prior images, which keep the words' general meaning (section 3.2)."""
    return f"a photo of {object_name}"


def normal_prompts(object_name: str, count: int) -> tuple[str, ...]:
    """A set of normal-state prompts.

    Parameters
    ----------
    object_name : words for the object, such as "metal nut"
    count : one of ``COUNTS``
        0: one empty prompt ("without text", Table 5). 1: "a photo of normal <object> without flaw".
        3: the same with flaw, defect, damage (sections 3.3 and 4.3). 5 and 10: the first templates
        of Figure 5b with "without flaw" (appendix A.1 does not say which five). 30: every
        template with every state, the templates of one state after those of another.

    Returns
    -------
    tuple of ``max(count, 1)`` different strings

    Raises
    ------
    ValueError
        Another count.
    """
    states = [f"normal {object_name} without {state}" for state in STATES]
    if count == 0:
        return ("",)
    if count in (1, 3):
        return tuple(f"a photo of {c}" for c in states[:count])
    if count in (5, 10, 30):
        sentences = [t.format(c=c) for c in states for t in TEMPLATES]
        return tuple(sentences[:count])
    raise ValueError(
        f"number of normal-state prompts must be one of {COUNTS}. Got {count!r} instead."
    )
