# Dagster: one image, four commands. Each waits for the database and for what its account may do.
locals {
  # The webservers, with their flags.
  webservers = {
    webserver = var.ui_is_read_only ? ["--read-only"] : []
    # Takes reports of upstream changes, which a webserver that only reads refuses; the event function alone may call it.
    reports = []
  }
}

resource "google_cloud_run_v2_service" "webserver" {
  for_each            = local.webservers
  name                = "mbta-${each.key}"
  location            = var.region
  deletion_protection = false

  template {
    service_account = google_service_account.of[each.key].email
    scaling {
      max_instance_count = 1
    }
    containers {
      image   = local.dagster
      command = ["dagster-webserver"]
      args    = concat(["--host", "0.0.0.0", "--port", "3000", "--workspace", "workspace.yaml"], each.value)
      ports {
        container_port = 3000
      }
      resources {
        limits = { cpu = "1", memory = "2Gi" }
      }
      startup_probe {
        period_seconds    = 10
        failure_threshold = 24
        tcp_socket {
          port = 3000
        }
      }
      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }
      env {
        name = "DAGSTER_POSTGRES_URL"
        value_source {
          secret_key_ref {
            secret  = google_secret_manager_secret.database.secret_id
            version = google_secret_manager_secret_version.database.version
          }
        }
      }
      volume_mounts {
        name       = "cloudsql"
        mount_path = "/cloudsql"
      }
    }
    volumes {
      name = "cloudsql"
      cloud_sql_instance {
        instances = [google_sql_database_instance.dagster.connection_name]
      }
    }
  }

  depends_on = [google_secret_manager_secret_iam_member.database, google_storage_bucket_iam_member.models]
}

resource "google_cloud_run_v2_worker_pool" "daemon" {
  name                = "mbta-daemon"
  location            = var.region
  launch_stage        = "BETA"
  deletion_protection = false

  scaling {
    manual_instance_count = 1
  }

  template {
    service_account = google_service_account.of["daemon"].email
    containers {
      image   = local.dagster
      command = ["dagster-daemon"]
      args    = ["run", "--workspace", "workspace.yaml"]
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
      env {
        name = "DAGSTER_POSTGRES_URL"
        value_source {
          secret_key_ref {
            secret  = google_secret_manager_secret.database.secret_id
            version = google_secret_manager_secret_version.database.version
          }
        }
      }
      volume_mounts {
        name       = "cloudsql"
        mount_path = "/cloudsql"
      }
    }
    volumes {
      name = "cloudsql"
      cloud_sql_instance {
        instances = [google_sql_database_instance.dagster.connection_name]
      }
    }
  }

  depends_on = [google_secret_manager_secret_iam_member.database, google_storage_bucket_iam_member.models]
}

# Every run, the nightly one too, is an execution of this job; deploy/google-cloud.yaml names it.
resource "google_cloud_run_v2_job" "run" {
  name                = "mbta-run"
  location            = var.region
  deletion_protection = false

  template {
    template {
      service_account = google_service_account.of["run"].email
      max_retries     = 0 # Dagster tries again
      timeout         = "21600s"
      containers {
        image   = local.dagster
        command = ["env"] # runs its arguments, which each execution brings
        resources {
          limits = { cpu = var.run_cpu, memory = var.run_memory }
        }
        dynamic "env" {
          for_each = local.environment
          content {
            name  = env.key
            value = env.value
          }
        }
        env {
          name = "DAGSTER_POSTGRES_URL"
          value_source {
            secret_key_ref {
              secret  = google_secret_manager_secret.database.secret_id
              version = google_secret_manager_secret_version.database.version
            }
          }
        }
        volume_mounts {
          name       = "cloudsql"
          mount_path = "/cloudsql"
        }
      }
      volumes {
        name = "cloudsql"
        cloud_sql_instance {
          instances = [google_sql_database_instance.dagster.connection_name]
        }
      }
    }
  }

  depends_on = [google_secret_manager_secret_iam_member.database, google_storage_bucket_iam_member.models]
}
