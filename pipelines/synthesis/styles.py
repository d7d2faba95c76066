"""Looks: each a small table of ranges from which every image draws. A new look is a `replace` of a few fields.

A pair is a range, drawn evenly between its ends; a number between 0 and 1 that stands alone is a share of images.
Lengths are fractions of the text's height unless they say pixels; brightness goes from 0 to 255.
"""

from dataclasses import dataclass, field, replace

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How words of one look are drawn and photographed."""

    name: str
    summary: str
    # -- letters
    families: dict[str, float] = field(default_factory=lambda: dict(SIGNAGE))  # share of each family of faces
    weights: dict[str, float] = field(default_factory=lambda: {"light": 0.3, "regular": 1.0, "bold": 2.5, "black": 1.5})
    italic: float = 0.25          # how often an italic is taken, relative to an upright
    tracking: Range = (-0.03, 0.08)  # extra space between letters, of the em
    wide_tracking: float = 0.08   # these are spaced out by up to half an em
    big_initial: float = 0.12     # of upper-case words: the first letter is larger
    bounce: float = 0.05          # letters off the baseline
    squeeze: Range = (0.62, 1.18)  # width of letters, 1 = as designed
    thicken: float = 0.15
    thin: float = 0.05
    hollow: float = 0.02          # contours only
    # -- size and place
    height: tuple[float, float, float, float] = (32, 0.48, 14, 80)  # pixels: median, logarithm's spread, least, most
    margin: Range = (-0.02, 0.26)
    neighbours: float = 0.28      # fragments of other words at the edges
    # -- geometry
    rotation: float = 4.0         # degrees: standard deviation; three times that for one image in seven
    shear: float = 0.06           # standard deviation
    perspective: float = 0.22     # most by which one side is nearer than the middle
    arc: float = 0.10
    arc_angle: Range = (0.25, 1.3)  # radians from the first to the last letter
    # -- colour
    light_text: float = 0.5       # light letters on a dark ground
    contrast: Range = (38, 230)
    ground_colour: Range = (0, 0.6)  # 0 = grey, 1 = a pure hue
    ink_colour: Range = (0, 0.7)
    grey: float = 0.2             # no colour at all
    # -- ground and relief
    gradient: float = 0.5
    texture: float = 0.55
    texture_strength: Range = (3, 26)  # brightness; less where the contrast is low, as for noise
    textures: tuple[str, ...] = ("clouds", "clouds", "grain", "blotches", "stripes", "wood", "bricks", "mesh",
                                 "scratches")
    clutter: float = 0.06         # the ground is a scene
    panel: float = 0.22           # an edge of the sign, with something else behind it
    line: float = 0.10            # a rule or a frame near the word
    worn: float = 0.06            # paint that has come off
    outline: float = 0.12
    shadow: float = 0.25
    glow: float = 0.03
    # -- camera
    light: Range = (0.0, 0.35)    # unevenness of the light
    blur: Range = (0.0, 0.06)     # standard deviation; small ones are more frequent
    sharpen: float = 0.25         # the camera's own sharpening, with its halos
    motion: float = 0.10
    motion_length: Range = (0.05, 0.15)
    coarse: float = 0.30          # taken at fewer pixels and enlarged
    coarse_factor: Range = (1.1, 2.2)
    noise: Range = (0.0, 10.0)    # brightness: standard deviation; small ones are more frequent
    quality: Range = (40, 96)     # JPEG


SIGNAGE = {"Roboto": 2.0, "SourceSans": 2.0, "Hanken": 2.0, "Manrope": 1.6, "DejaVuSans": 1.2, "DejaVuMono": 0.3,
           "DejaVuSerif": 0.7, "SourceSerif": 1.2, "Caladea": 0.8, "STIX": 0.9, "ComputerModern": 0.5, "Fredoka": 0.5,
           "Intuitive": 0.3, "Amatic": 0.25}

SCENE = Style("scene", "everything that words in photographs do: the labeled source for reading real scene text")

PLAIN = replace(
    SCENE, name="plain", summary="dark print on light paper: few faces, little distortion",
    families={"Roboto": 2, "SourceSans": 2, "DejaVuSans": 1, "SourceSerif": 1, "STIX": 1},
    weights={"light": 0, "regular": 2, "bold": 1, "black": 0}, italic=0.15, tracking=(-0.01, 0.04), wide_tracking=0,
    big_initial=0, bounce=0, squeeze=(0.92, 1.05), thicken=0, thin=0, hollow=0, height=(32, 0.15, 24, 48),
    margin=(0.05, 0.25), neighbours=0.1, rotation=0.8, shear=0.01, perspective=0.02, arc=0,
    light_text=0, contrast=(150, 225), ground_colour=(0, 0.12), ink_colour=(0, 0.2), grey=0.5,
    gradient=0.3, texture=0.6, texture_strength=(2, 7), textures=("clouds", "grain"), clutter=0, panel=0, line=0.05,
    worn=0, outline=0, shadow=0, glow=0, light=(0, 0.12), blur=(0, 0.025), sharpen=0.1, motion=0, coarse=0.05,
    noise=(0, 4), quality=(70, 96))

STREET = replace(
    SCENE, name="street",
    summary="coloured signs, mostly light letters on dark: other faces, textured, blurred, at an angle",
    families={"Hanken": 2, "Manrope": 2, "DejaVuSerif": 1, "Caladea": 1, "Fredoka": 1.5, "DejaVuMono": 0.5},
    weights={"light": 0, "regular": 1, "bold": 2, "black": 2}, wide_tracking=0.03, big_initial=0.04, bounce=0.02,
    squeeze=(0.85, 1.1), hollow=0, height=(32, 0.15, 24, 48), margin=(0.02, 0.22), neighbours=0.15, rotation=2.5,
    perspective=0.25, arc=0.04, light_text=0.8, contrast=(75, 200), ground_colour=(0.25, 0.75), ink_colour=(0.1, 0.8),
    grey=0, texture=0.85, texture_strength=(8, 28),
    textures=("clouds", "blotches", "stripes", "wood", "bricks", "mesh"),
    panel=0.35, worn=0.02, shadow=0.3, blur=(0.01, 0.05), coarse=0.15, noise=(1, 8), quality=(40, 85))

SIGN = replace(
    STREET, name="sign", summary="coloured signs seen well: the faces and colours of street, little distortion",
    neighbours=0.05, rotation=1.5, perspective=0.10, arc=0, light_text=0.6, contrast=(100, 210),
    texture_strength=(3, 12), panel=0.15, worn=0, outline=0.03, shadow=0.15, blur=(0, 0.03), coarse=0.05, noise=(0, 5))

STYLES = {style.name: style for style in (SCENE, PLAIN, STREET, SIGN)}
