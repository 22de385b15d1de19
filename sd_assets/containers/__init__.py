"""The containers of images: what a file says of its picture, and the bare picture without anything else.

Here belongs what walks the segments, chunks, blocks, boxes and tags of a file: size, orientation, colour profile, and
the *bare* file that a decoder is given, from which metadata, thumbnails and later frames are left out. Everything is
bounded: what is walked, and what is allocated, by the bytes that are there and never by what they promise. So metadata
that is absurd costs neither memory nor time, and the picture comes out all the same. Not here: pixels, colours and what
is done with them (`sd_assets.images`); no decoder runs.
"""
