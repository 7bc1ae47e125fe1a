from __future__ import annotations

from toolkit.dg.draws import Draws


def test_draws_depend_on_the_step_only() -> None:
    draws = Draws(sizes=(5, 3), counts=(2, 1), seed=0)
    whole = draws.steps(0, 9)
    assert [len(step) for step in whole] == [3] * 9
    assert draws.steps(4, 7) == whole[4:7]
    assert Draws((5, 3), (2, 1), 1).steps(0, 9) != whole


def test_views_of_an_image_are_drawn_one_after_the_other() -> None:
    draws = Draws(sizes=(4,), counts=(2,), seed=0, views=3)
    seen = [(draw.image, draw.view) for step in draws.steps(0, 6) for draw in step]
    assert sorted(seen) == [(image, view) for image in range(4) for view in range(3)]
    again = [draw for step in draws.steps(6, 12) for draw in step]
    assert sorted((draw.image, draw.view) for draw in again) == sorted(seen)
    first = next(draw for step in draws.steps(0, 6) for draw in step if (draw.image, draw.view) == (again[0][2:]))
    assert first.generator(0).integers(2**63) == again[0].generator(0).integers(2**63)
    assert first.generator(0, 1).integers(2**63) != first.generator(0).integers(2**63)


def test_without_views_each_draw_has_its_own_stream() -> None:
    draws = [draw for step in Draws((2,), (2,), 0).steps(0, 4) for draw in step]
    assert len({draw.generator(0).integers(2**63) for draw in draws}) == 8
