"""Who is served when there are more connections than places."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.places import Places


@dataclass(eq=False)
class Seated:
    """A connection that was last asked on at some time."""

    asked: float
    left: list[float] = field(default_factory=list)
    looks: int = 0

    def idle_s(self, now: float) -> float:
        """Say since when."""
        self.looks += 1
        return now - self.asked

    def give_way(self) -> None:
        """Note it."""
        self.left.append(self.asked)


def _full(*asked: float) -> tuple[Places[Seated], list[Seated]]:
    places, seated = Places[Seated](len(asked)), [Seated(each) for each in asked]
    assert all(places.take(each, 0.0) for each in seated)
    return places, seated


def test_the_idlest_gives_way() -> None:
    """One after the other, as long as they have not been asked on for a while; then there is no room."""
    places, seated = _full(30.0, 10.0, 20.0, 98.0)
    came = [Seated(100.0) for _ in range(4)]

    assert [places.take(each, 100.0) for each in came] == [True, True, True, False]
    assert [bool(each.left) for each in seated] == [True, True, True, False]
    assert places.taken == {*came[:3], seated[3]}
    assert places.refused == 1


def test_who_is_asked_after_all_stays() -> None:
    """Between the look and the turn of one found idle, it may have been asked, or have left."""
    places, (first, second, third) = _full(1.0, 2.0, 3.0)

    assert places.take(Seated(50.0), 50.0)
    second.asked = 50.0
    places.leave(third)
    assert places.take(Seated(50.0), 50.1)
    assert not places.take(Seated(50.0), 50.2)
    assert [bool(each.left) for each in (first, second, third)] == [True, False, False]


def test_a_crowd_has_them_looked_through_seldom() -> None:
    """Once a second, however many come: it costs as much as there are connections."""
    places, seated = _full(*[100.0] * 10)
    for step in range(500):
        assert not places.take(Seated(100.0), 101.0 + step / 1_000)

    assert {each.looks for each in seated} <= {1, 2}
    assert places.refused == 500
