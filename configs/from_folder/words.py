"""Words in names of files that say of which modality a file is, as in 0001_rgb.png."""

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import NamedTuple

LEAST_SHARE = 0.1
"""Share of a folder's samples that a word in the names of files has if it names a modality."""
MOST_WORDS = 3
"""Words at an end of a name that may together name a modality, as in a_gtFine_labelIds.png."""
MOST_AFFIXES = 32
MOST_NAMES = 20_000
"""Names of files that are compared; of more, those of some samples."""
LOOKED_AT = 8
SHARED = 0.5
"""Share of the samples of the rarer of two modalities that have both."""
FEW = 4
"""So few files may each name a modality that no other file has."""
WORDS = """
    rgb rgba bgr image images img imgs photo photos picture pictures color colors colour colours
    leftimg8bit grey gray pan ms hs depth depths disp disparity distance normal normals mask masks
    seg segm segmentation semantic semseg instance instances panoptic label labels labelids
    labeltrainids gt gtfine gtcoarse groundtruth truth annot annotation annotations anno parsing
    matte alpha trimap saliency class classes lulc landcover cover caption captions text prompt
    box boxes bbox bboxes det detections edge edges canny contour contours sketch lineart ir nir
    swir lwir thermal infrared flow opticalflow albedo diffuse specular roughness metallic shading
    reflectance height elevation dem dsm dtm ndvi sar radar vv vh hh hv flair adc dwi ct pet mri
    left right input output source target before after hr lr noisy clean hazy clear blur sharp
    keypoints pose heatmap audio sound wave spectrogram emb embedding embeddings feat feats
    feature features clip dino tok tokens codes points lidar meta metadata bands
"""
NAMES = frozenset(WORDS.split())
"""Words that name modalities, as far as others use them."""

CAMERAS = ("IMG", "DSC", "PXL", "MVI", "DJI", "GOPR")
"""What cameras call all of their pictures."""


class Affix(NamedTuple):
    """What the names of a modality's files have beside the key, extension aside."""

    before: str = ""
    after: str = ""
    middle: str = ""
    """What stands between two parts of the key."""

    @property
    def name(self) -> str:
        return f"{self.before}{self.middle}{self.after}".strip("_-. /")


def is_name(text: str) -> bool:
    """True if a word of a text names a modality.

    Example:
        >>> is_name("_gtFine_labelIds"), is_name("trainId"), is_name("kitchen")
        (True, False, False)
    """
    words = re.findall(r"[A-Za-z0-9]+", text)
    pieces = [piece for word in words for piece in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", word)]
    return any(each.lower() in NAMES for each in (*words, *pieces))


class Words(NamedTuple):
    """What was found.

    Attributes:
        affixes: Of every name; one without words where a name has none of a modality.
        doubtful: Affixes of which names belong together that may as well be samples of their own.
    """

    affixes: dict[str, Affix]
    doubtful: tuple[str, ...] = ()


def find_words(stems: Collection[str], look: Callable[[str], str]) -> Words:
    """Returns what of each file's name says its modality.

    A word does if it stands at the same end of many names, if these without it are names that
    others have, too, and if it is a usual word, or files with it hold something of another kind.

    Args:
        stems: Names of files below one folder, without extension, in any order.
        look: Returns what a file holds, as a text that differs between kinds.
    """
    everything, stems = stems, _sample(sorted(set(stems)))
    of_affix: dict[Affix, set[str]] = defaultdict(set)
    by_stem = {stem: affixes_of(stem) for stem in stems}
    for stem, affixes in by_stem.items():
        for affix in affixes:
            of_affix[affix].add(strip(stem, affix))
    most = max(map(len, of_affix.values()), default=0)
    least_named = 1 if len(stems) <= FEW else 2
    frequent = [
        affix
        for affix, keys in of_affix.items()
        if len(keys) >= (least_named if is_name(affix.name) else max(2, LEAST_SHARE * most))
    ]
    frequent = sorted(frequent, key=lambda a: (-is_name(a.name), -len(of_affix[a]), a))
    frequent = frequent[:MOST_AFFIXES]
    bare = {Affix(): set(stems)}
    partners = {
        affix: [
            other
            for other, keys in ({each: of_affix[each] for each in frequent} | bare).items()
            if _are_partners(affix, other)
            and len(keys & of_affix[affix]) >= SHARED * min(len(keys), len(of_affix[affix]))
        ]
        for affix in frequent
    }
    # One may lead to another: _edges goes with the plain name, which goes with _depth.
    accepted, doubtful = set(), set()
    for affix in frequent:
        if not partners[affix]:
            continue
        linked = {affix, *partners[affix]}
        if any(is_name(each.name) for each in linked) or _differ(linked, of_affix, by_stem, look):
            accepted |= linked - {Affix()}
        else:
            doubtful |= linked - {Affix()}
    chosen = dict.fromkeys(everything, Affix())
    for stem in everything if accepted else ():
        chosen[stem] = max(
            [affix for affix in affixes_of(stem) if affix in accepted],
            key=lambda a: (len(of_affix[a]), len(partners.get(a, ())), -len(a.name)),
            default=Affix(),
        )
    unsure = doubtful - accepted if not accepted else set()
    return Words(chosen, tuple(sorted(each.name for each in unsure)))


def affixes_of(stem: str) -> list[Affix]:
    """Returns what may be said beside the key, the shortest first; its outermost word is no number.

    Example:
        >>> [affix.name for affix in affixes_of("a/frame_1_rgb")]
        ['rgb', '1_rgb', 'frame_1_rgb', 'frame', 'frame_1']
        >>> affixes_of("hall_depth_1")[-1]
        Affix(before='', after='', middle='_depth_')
    """
    folder, slash, base = stem.rpartition("/")
    ends = [
        index
        for index in range(1, len(base))
        if base[index] in "_-. " or (base[index - 1].isdigit() and base[index].isalpha())
    ]
    starts = [
        index
        for index in range(1, len(base))
        if base[index - 1] in "_-. " or (base[index - 1].isalpha() and base[index].isdigit())
    ]
    words = re.split(r"[_\-. ]", base)
    has_end, has_start = (bool(re.search("[A-Za-z]", words[place])) for place in (-1, 0))
    found = [Affix(after=base[index:]) for index in ends[::-1][:MOST_WORDS] if has_end]
    if slash and folder and has_end:
        found.append(Affix(after=f"/{base}"))
    if has_start and not base.startswith(CAMERAS):
        found += [Affix(before=base[:index]) for index in starts[:MOST_WORDS]]
    # A pattern finds the first of several equal words.
    inner = [match for match in re.finditer(r"[_\-. ]([^_\-. ]+)(?=[_\-. ].)", base)]
    for match in inner:
        middle = base[match.start() : match.end() + 1]
        if match[1].lower() in NAMES and base.find(middle) == match.start() > 0:
            found.append(Affix(middle=middle))
    return found


def strip(stem: str, affix: Affix) -> str:
    """Returns a name without what stands beside its key; the parts of a key are joined by a slash.

    Example:
        >>> strip("a/depth_1", Affix(before="depth_")), strip("1/depth", Affix(after="/depth"))
        ('a/1', '1')
        >>> strip("hall_depth_1", Affix(middle="_depth_"))
        'hall/1'
    """
    folder, slash, base = stem.rpartition("/")
    if affix.middle:
        return f"{folder}{slash}{base.replace(affix.middle, '/', 1)}"
    if affix.after.startswith("/"):
        return stem[: -len(affix.after)]
    return f"{folder}{slash}{base[len(affix.before) : len(base) - len(affix.after)]}"


def _are_partners(affix: Affix, other: Affix) -> bool:
    """True if no name can have both, or one has nothing."""
    if affix == other:
        return False
    if not other.name:
        return True
    if affix.middle or other.middle:
        return bool(affix.middle and other.middle)
    if bool(affix.before) != bool(other.before):
        return False
    if affix.before:
        return not (affix.before.startswith(other.before) or other.before.startswith(affix.before))
    return not (affix.after.endswith(other.after) or other.after.endswith(affix.after))


def _differ(
    linked: set[Affix],
    of_affix: dict[Affix, set[str]],
    by_stem: dict[str, list[Affix]],
    look: Callable[[str], str],
) -> bool:
    """True if files of some affixes hold something else than those of others, each the same."""
    seen = set()
    for affix in linked:
        if affix.name:
            stems = [stem for stem, own in by_stem.items() if affix in own]
        else:
            partner = next(each for each in linked if each.name)
            stems = [key for key in sorted(of_affix[partner]) if key in by_stem]
        looks = {look(stem) for stem in stems[:LOOKED_AT]}
        if len(looks) > 1:
            return False
        seen |= looks
    return len(seen) > 1


def _sample(stems: list[str]) -> list[str]:
    """Returns the names of some samples, with all of their modalities: those of some numbers."""
    parts = len(stems) // MOST_NAMES + 1
    if parts == 1:
        return stems
    numbers = {stem: re.sub(r"\D", "", stem) or stem for stem in stems}
    return [stem for stem in stems if zlib.crc32(numbers[stem].encode()) % parts == 0]
