"""equilib: an equivariant MobileNetV2, trained, made INT8 without data, still equivariant.

A notebook and a module share a name: ``notebooks/01_feature_fields.ipynb`` is backed by :mod:`equilib.fields`, and so
on.  Nothing is imported here, so that ``import equilib`` stays cheap; import the module that you need.
"""

__version__ = "0.1.0"
