"""Questions asked of the library, one folder each. They import vdm; nothing imports them."""
