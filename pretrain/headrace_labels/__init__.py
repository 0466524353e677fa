# SPDX-License-Identifier: Apache-2.0
"""What HuBERT predicts: features of speech, clusters of features, and a label file of clusters for each manifest.

File names and the order of arguments are fairseq's (examples/hubert/simple_kmeans); nothing here needs fairseq.
"""
