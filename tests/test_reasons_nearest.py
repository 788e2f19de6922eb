"""Which earlier task one is compared to, where several come into question; and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.test_reasons import CELL, CUP, GENERATED, MUG, Planned, all_of, method, why

NEAR = [method("near")]


def labelled(label: str, **params: Any) -> Any:
    return method("near", label=label, params=params)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("abc", "parameter a: added, parameter b: added, parameter c: added"),
        ("edcba", "parameter a: added, parameter b: added, parameter c: added, 2 more"),
    ],
)
def test_of_many_differences_from_another_label_three_are_told(values: str, words: str) -> None:
    after = Planned([*NEAR, labelled("more", **dict.fromkeys(values, 1))])
    reason = f"not planned before: method more (near but for {words})"
    assert why(Planned(NEAR), after) == all_of(reason, *CELL)


def test_the_differences_of_one_label_are_told_in_order_all_of_them() -> None:
    before, after = Planned([labelled("m", d=1, b=1)]), Planned([labelled("m", c=2, b=3, a=1)])
    lines = ("parameter a of method m: added", "parameter b of method m: 1 -> 3")
    more = ("parameter c of method m: added", "parameter d of method m: removed")
    assert why(before, after) == all_of("; ".join((*lines, *more)), *CELL)


def test_of_labels_that_are_equally_like_the_first_is_told() -> None:
    before = Planned([labelled("a", x=1), labelled("b", x=2), labelled("c", x=3, y=1)])
    reasons = why(before, Planned([labelled("n", x=4)]))
    new = "not planned before: method n (a but for parameter x: 1 -> 4)"
    assert reasons == all_of(new, *CELL)
    reasons = why(before, Planned([labelled("n", x=4, y=1)]))
    new = "not planned before: method n (c but for parameter x: 3 -> 4)"
    assert reasons == all_of(new, *CELL)


def test_of_equal_methods_that_with_less_to_tell_is_told() -> None:
    before = Planned([method("near", label="a"), method("near", label="b", generator="g")])
    after = Planned([method("near", label="a", generator="g")], shots=[2])
    new = "not planned before: 2 shots"
    assert why(before, after) == all_of(new, "customize", "generate", *CELL)


def test_a_method_that_begins_to_learn_is_another_class() -> None:
    reasons = why(Planned([method("near", label="m")]), Planned([method("taught", label="m")]))
    change = "class of method m: near -> taught"
    train = {f"not planned before: auxiliary data others; {change}"}
    assert reasons == {"train": train} | all_of(change, *CELL)


def test_the_first_shots_of_more_are_told_of_a_training() -> None:
    taught = [method("taught")]
    before = Planned(taught, shots=[0], seeds=[1])
    reasons = why(before, Planned(taught, shots=[0, 2, 4], seeds=[1]))
    assert reasons["train"] == {"not planned before: 2 shots"}


def test_a_category_of_other_contents_is_compared_by_its_name() -> None:
    other = replace(MUG, name="cup", object_name="a cup")
    support = "1 shot of support of data/cup, seed 0 changed"
    queries = "images of queries of data/cup changed"
    shard = "shard of queries of data/cup: 2 -> 4"
    truth = "labels and masks of truth of data/cup changed"
    assert why(Planned(NEAR), Planned(NEAR, (other,))) == {
        "predict": {f"{support}; {queries}"},
        "evaluate": {f"{support}; {queries}; {truth}"},
    }
    larger = why(Planned(NEAR), Planned(NEAR, (other,), shard=4))
    assert larger["predict"] == {f"{support}; {shard}; {queries}"}


def test_categories_that_change_names_are_known_by_what_they_show() -> None:
    words = "object name of words of data/{}: {} -> {}"
    swapped = (replace(CUP, name="mug"), replace(MUG, name="cup"))
    before = Planned(NEAR, (CUP, MUG))
    assert why(before, Planned(NEAR, swapped)) == {}
    renamed = (replace(swapped[0], object_name="a jar"), swapped[1])
    change = words.format("mug", "a cup", "a jar")
    assert why(before, Planned(NEAR, renamed)) == all_of(change, *CELL)


def test_only_what_no_method_had_is_new_beside_a_new_one() -> None:
    before = Planned([method("near", shots=[1]), method("near", label="b", shots=[2])])
    after = Planned([method("taught", shots=[1])])
    reasons = why(before, after)
    assert reasons["predict"] == {"not planned before: method taught"}


def test_a_dataset_is_known_if_any_of_its_categories_was_planned() -> None:
    before = Planned(NEAR, (CUP, replace(MUG, dataset="other")))
    new = "not planned before: category data/mug"
    third = replace(MUG, queries=CUP.queries, truth="another", supports=GOBLET)
    assert why(before, Planned(NEAR, (third,))) == all_of(new, *CELL)


GOBLET = {seed: tuple(reversed(drawn)) for seed, drawn in MUG.supports.items()}


def test_personalized_images_for_a_method_that_did_without() -> None:
    """Its class is the same, and it says by a parameter that it wants them."""
    plain = Planned([GENERATED[0].model_copy(update={"params": {"wants": 0}})])
    bare = replace(plain.inputs.methods[0], personalized=False)
    plain.inputs = replace(plain.inputs, methods=(bare,))
    wants = [GENERATED[0].model_copy(update={"params": {"wants": 1}})]
    change = "parameter wants of method compared+g: 0 -> 1"
    images = "not planned before: personalized images for compared+g"
    assert why(plain, Planned(wants)) == {"personalize": {images}} | all_of(change, *CELL)
