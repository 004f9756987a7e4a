"""Annotations of objects beside images: COCO JSON, YOLO, Pascal VOC, tables of corners -> one column of objects."""
