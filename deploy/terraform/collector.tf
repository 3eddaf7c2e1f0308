# Keeps the feeds that MBTA_SOURCE=gtfs reads, in the bucket of the models. It needs neither Dagster nor its database.
resource "google_cloud_run_v2_worker_pool" "collector" {
  count               = var.collects_feeds ? 1 : 0
  name                = "mbta-collector"
  location            = var.region
  launch_stage        = "BETA"
  deletion_protection = false

  scaling {
    manual_instance_count = 1
  }

  template {
    service_account = google_service_account.of["collector"].email
    containers {
      image   = local.dagster
      command = ["mbta-assets"]
      args    = ["collect"]
      resources {
        limits = { cpu = "1", memory = "2Gi" }
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

  depends_on = [google_storage_bucket_iam_member.models, google_storage_bucket_iam_member.feeds]
}

resource "google_storage_bucket_iam_member" "feeds" {
  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectUser"
  member = google_service_account.of["collector"].member
  condition {
    title      = "feeds"
    expression = "resource.name.startsWith('projects/_/buckets/${google_storage_bucket.models.name}/objects/feeds/')"
  }
}
