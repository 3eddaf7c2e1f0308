# Predicts the live feed and serves TripUpdates, beside the predictor. It keeps the state of the service day in memory, so
# that there is one instance, which works between requests too. The collector keeps the feeds that a restart reads.
resource "google_cloud_run_v2_service" "live" {
  count               = var.predicts_live ? 1 : 0
  name                = "mbta-live"
  location            = var.region
  deletion_protection = false

  template {
    service_account = google_service_account.of["live"].email
    scaling {
      min_instance_count = 1
      max_instance_count = 1
    }
    containers {
      image   = local.dagster
      command = ["mbta-assets"]
      args    = ["live", "--no-archive", "--host", "0.0.0.0", "--port", "8090"]
      ports {
        container_port = 8090
      }
      resources {
        limits            = { cpu = var.live_cpu, memory = var.live_memory }
        cpu_idle          = false # it follows the feed between requests
        startup_cpu_boost = true
      }
      startup_probe {
        period_seconds    = 10
        failure_threshold = 24
        http_get {
          path = "/healthz"
          port = 8090
        }
      }
      liveness_probe {
        period_seconds    = 30
        failure_threshold = 3
        http_get {
          path = "/healthz"
          port = 8090
        }
      }
      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }

  lifecycle {
    precondition {
      condition     = var.collects_feeds
      error_message = "predicts_live reads the archive that the collector fills: set collects_feeds too."
    }
  }

  depends_on = [google_storage_bucket_iam_member.models, google_storage_bucket_iam_member.published]
}

resource "google_storage_bucket_iam_member" "published" {
  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectUser"
  member = google_service_account.of["live"].member
  condition {
    title      = "published"
    expression = "resource.name.startsWith('projects/_/buckets/${google_storage_bucket.models.name}/objects/feeds/published/')"
  }
}
