"""Kernels, in one module for each thing that they work on.

Arrays of vertices are (batch, n), and offsets into any array are int64. Where a grid has two
axes, the second one is the element of the batch. Along the first one programs share the work of
an element; often only the device knows how much that is.
"""
