"""Compares manifests with the schemas of one version of Kubernetes, and prints them as JSON.

Usage: read.py VERSION FILE…
"""

import json
import sys

import kubernetes_validate
import yaml

version, *files = sys.argv[1:]
documents = []
for file in files:
    with open(file, encoding="utf-8") as text:
        for document in yaml.safe_load_all(text):
            # A file of kustomize is no object of the cluster.
            if document["kind"] != "Kustomization":
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    sys.exit(f"{file}: {document['kind']}: {'.'.join(map(str, error.path))}: {error.message}")
            documents.append(document)
print(json.dumps(documents))
