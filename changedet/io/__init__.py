"""Everything that reads or writes.

====================  ======================================================================================
``products``          what the user gives → scene records (:func:`find_scenes`, :func:`info`)
``stack``             scene records → labelled arrays (:func:`open_stack`, :func:`read_pair`)
``raster``            single rasters: headers, windows, Cloud-optimised GeoTIFFs
``vector``            areas, GeoJSON, GeoPackage
``files``             atomic writing, checksums, text and JSON
``safety``            what a path may be
====================  ======================================================================================

Modules import one another downwards only: safety, files → _gdal → _cog → raster → _names, _dates, _masks,
_bands, _scale, _warp → _collect, _scenes, _aoi, _read, _info → products → stack. A new kind of product (SAFE
with its metadata, netCDF, STAC) is a module beside ``_scenes`` that makes ``Scene`` records, and a line in
``products.find_scenes``.
"""
