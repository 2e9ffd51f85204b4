"""Everything that reads or writes.

====================  ======================================================================================
``products``          what the user gives → scene records (:func:`find_scenes`, :func:`info`)
``stack``             scene records → labelled arrays (:func:`open_stack`, :func:`read_pair`)
``raster``            single rasters: headers, windows, Cloud-optimised GeoTIFFs
``vector``            areas, GeoJSON, GeoPackage
``files``             atomic writing, checksums, text and JSON
``safety``            what a path may be
====================  ======================================================================================

Modules import one another downwards only: safety, files → raster → _names, _dates, _masks, _bands, _scale,
_warp → _collect, _scenes, _aoi, _read → products → stack.
"""
