"""What crosses stages: ids, events, sample, label, release, traffic split, publishing port."""
