"""Read folders of pictures that any tool drew: PNG, JPEG, WebP. What would be altered silently is refused.

**A picture** becomes (H,W,3) uint8. Grey and palette pictures become RGB, which changes no value. An alpha
channel that is opaque everywhere is dropped; any other is refused, since there is no background to draw on.
16 bits a channel, CMYK and several frames are refused.

**A folder** holds the files with such endings, in the order of their names, in which numbers count as
numbers: `2.png` comes before `10.png`. Other files, hidden ones and folders within it are left out. All
pictures have the size of the first.

**Two folders** hold as many pictures. Those of the same name, whatever their endings, are pairs. Where no
name occurs in both, the first is compared with the first, and so on.
"""

from .folder import PictureFolder, is_folder, open_folder
from .pairing import check_pictures, paired
from .read import SUFFIXES, BadPicture, read_picture

__all__ = [
    "SUFFIXES",
    "BadPicture",
    "PictureFolder",
    "check_pictures",
    "is_folder",
    "open_folder",
    "paired",
    "read_picture",
]
