"""What holds of a source that does not say more than it has to."""

from data_pipeline.sources.source import Note, file_of, key_of, notes_of, state_of, views_of


class Plain:
    """A source with nothing beside its samples."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {}

    def __getitems__(self, indices):
        return [{} for _ in indices]


class Telling(Plain):
    views, keys = 2, ["first"]
    notes = (Note("ignored", "", "", "a.tmp", "no picture"),)

    def file_of(self, index, modality):
        return f"{modality}/{index}.png"

    def state_of(self, index):
        return "new"


def test_a_source_may_tell_more_or_leave_it():
    plain, telling = Plain(), Telling()
    assert (views_of(plain), views_of(telling)) == (1, 2)
    assert (notes_of(plain), notes_of(telling)) == ((), telling.notes)
    assert (key_of(plain, 0), key_of(telling, 0)) == ("0", "first")
    assert (file_of(plain, 0, "rgb"), file_of(telling, 0, "rgb")) == ("", "rgb/0.png")
    assert (state_of(plain, 0), state_of(telling, 0)) == ("", "new")
