"""Names that other projects' schedulers and queues read on pods and on their own objects."""

from __future__ import annotations

KUEUE_GROUP = "kueue.x-k8s.io"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"  # label: the LocalQueue that admits the pod
KUEUE_POD_GROUP = "kueue.x-k8s.io/pod-group-name"  # label: the pods that are admitted together
KUEUE_TOTAL_COUNT = "kueue.x-k8s.io/pod-group-total-count"  # annotation: how many they are
KUEUE_RETRIABLE = "kueue.x-k8s.io/retriable-in-group"  # annotation: "false" where a failed pod is never replaced
KUEUE_GATE = "kueue.x-k8s.io/admission"  # scheduling gate that Kueue's webhook adds

NATIVE_API = "scheduling.k8s.io/v1beta1"  # of Kubernetes 1.37

VOLCANO_API = "scheduling.volcano.sh/v1beta1"
VOLCANO_POD_GROUP = "scheduling.k8s.io/group-name"  # annotation
VOLCANO_SCHEDULER = "volcano"

COSCHEDULING_API = "scheduling.x-k8s.io/v1alpha1"
COSCHEDULING_POD_GROUP = "scheduling.x-k8s.io/pod-group"  # label
COSCHEDULING_SCHEDULER = "scheduler-plugins-scheduler"

QUEUE_KEYS = (KUEUE_QUEUE, KUEUE_POD_GROUP, KUEUE_TOTAL_COUNT, KUEUE_RETRIABLE)
"""Labels and annotations that `spec.scheduling.queue` sets."""
