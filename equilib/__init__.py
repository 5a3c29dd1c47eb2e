"""equilib: an equivariant MobileNetV2, trained, made INT8 without data, still equivariant.

A notebook and a module share a name: ``notebooks/01_feature_fields.ipynb`` is backed by :mod:`equilib.fields`, and so
on.  Nothing is imported here, so that ``import equilib`` stays cheap; import the module that you need.
"""

__version__ = "0.1.0"
# Other packages are imported by the name equilib too (an image library, pyequilib): the notebooks' first cell looks for this.
COURSE = "equivariant MobileNetV2, from tissue to INT8"
