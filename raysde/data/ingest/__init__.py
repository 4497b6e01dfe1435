"""Ingest: conversion of any collection of images to shards."""
