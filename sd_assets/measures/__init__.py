"""What is measured in the pixels of a picture, without a model: sharpness, blockiness, flat borders, a perceptual hash.

Here belong functions from pixels to a number, each with its formula and where it is from, and `quality`, which applies them to
an encoded image. What does not: models (`models`), tables and their rows (`stages`), thresholds (the catalogue).
"""
